"""Small pictures, and the requests that bring them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from gateway.images import decode, open_picture
from tutorial.load import form

TEAL = (0, 128, 128)


def png(colour: str | tuple[int, int, int] = TEAL) -> bytes:
    """A small picture of one colour."""
    return encoded(Image.new("RGB", (9, 9), colour))


def upload(picture: bytes) -> bytes:
    """An HTTP request that brings a picture as a form's file."""
    body, content_type = form(picture)
    return (
        b"POST /predict HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
        b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (content_type.encode(), len(body), body)
    )


def noise(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture of noise, the same each time, in any mode."""
    width, height = size
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(values, "RGBA").convert("RGB").convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> Image.Image:
    """The picture in a file, decoded as the gateway does."""
    return decode(open_picture(data))


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """A piece of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
