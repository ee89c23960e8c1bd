"""Requests for the test client of a gateway's app, and checks of its answers."""

import io

from gateway.problems import KINDS


def files(*pictures: bytes) -> dict:
    """Return the options that upload picture files in a form."""
    return {"data": {"file": [(io.BytesIO(data), "picture.png") for data in pictures]}}


def problem_in(answer, name: str) -> str:
    """Check that an answer is a whole problem of this kind; return its detail."""
    kind = KINDS[name]
    assert answer.status_code == kind.status
    assert answer.mimetype == "application/problem+json"
    assert answer.headers.get("Retry-After") == (
        str(kind.retry_after) if kind.status == 503 else None
    )
    assert answer.json.keys() - {"index"} == {"type", "title", "status", "detail"}
    assert answer.json["type"] == f"/docs#{name}"
    assert answer.json["status"] == kind.status
    return answer.json["detail"]
