"""Name the limits that the gateway sets, and the errors that it raises."""

MAX_BYTES = 10 * 2**20  # of one picture file
MAX_PICTURES = 32  # in one request
MAX_REQUEST = 2 * MAX_BYTES  # of all picture files in one request
MAX_JSON = 512 * 1024  # of a request's JSON, which takes a hundred times as much when it is read
MAX_HELD = 64 * 2**20  # of the files and pixels that all requests of a process hold at once
MAX_SIDE = 12_000  # pixels
MAX_PIXELS = {  # of a decoded picture, by format; other formats are not read
    "JPEG": 25_000_000,  # decoding takes 4 bytes a pixel, a progressive file up to 12
    "PNG": 25_000_000,
    "WEBP": 15_000_000,  # 16 bytes a pixel
    "GIF": 25_000_000,
    "BMP": 25_000_000,
}
MAX_CMYK = 20_000_000  # pixels of a JPEG for print, which has four colours
PICTURE_LIMITS = {  # for the page, which makes larger pictures smaller
    "bytes": MAX_BYTES,
    "side": MAX_SIDE,
    "pixels": MAX_PIXELS,
}
TOO_LARGE = (
    f"a picture may have {MAX_BYTES >> 20} MB, all of a request {MAX_REQUEST >> 20} MB,"
    f" JSON {MAX_JSON >> 10} KB"
)


class ContractError(ValueError):
    """Report a contract.json that cannot be used; the message says why."""


class ImageError(ValueError):
    """Report a picture that cannot be used; the message tells the client why."""

    index: int | None = None  # position of the picture, where the request has several


class BlockedError(ImageError):
    """Report a URL that must not be fetched. Every cause gets the same message."""

    def __init__(self) -> None:
        super().__init__(
            "this address cannot be used: give the http:// or https:// address of a picture"
            " on the public internet, without a port or a password, and check the server's name"
        )


class RemoteError(ImageError):
    """Report that the server at a URL gives no picture; `kind` is a name in problems.KINDS."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class BusyError(Exception):
    """Report that the gateway has no capacity left for this request."""


class NoModelError(Exception):
    """Report that a request has waited for a model server, and none came."""


class DeadlineError(TimeoutError):
    """Report that the time for a request is up."""


class CallerLeftError(Exception):
    """Report that the caller closed the connection before the answer."""


class ModelMismatchError(Exception):
    """Report that the contract and the served model do not fit together."""
