"""The service between the internet and the model: fetches pictures, asks the model, answers."""
