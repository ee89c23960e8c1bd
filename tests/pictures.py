"""Small pictures, and the requests that bring them."""

import io

from PIL import Image

from tutorial.load import form

TEAL = (0, 128, 128)


def png(colour: str | tuple[int, int, int] = TEAL) -> bytes:
    """A small picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(file, "PNG")
    return file.getvalue()


def upload(picture: bytes) -> bytes:
    """An HTTP request that brings a picture as a form's file."""
    body, content_type = form(picture)
    return (
        b"POST /predict HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
        b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (content_type.encode(), len(body), body)
    )
