"""A layer, a function and a model of a user's own, as CUSTOM_OBJECTS names them."""

import keras
import tf_keras


@keras.saving.register_keras_serializable("mine")
class Halve(keras.layers.Layer):
    """Halve the input, in Keras 3."""

    def call(self, x):
        """Return half of x."""
        return x * 0.5


class Third(tf_keras.layers.Layer):
    """Divide the input by three, in Keras 2."""

    def call(self, x):
        """Return a third of x."""
        return x / 3


def sharp(x):
    """Return the square."""
    return x * x


class Pets(keras.Model):
    """A model that is a class, so its file does not say how its layers follow each other."""

    def __init__(self, **options):
        """Create the layers."""
        super().__init__(**options)
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.last = keras.layers.Dense(3)

    def call(self, x):
        """Return the scores."""
        return self.last(self.pool(x))
