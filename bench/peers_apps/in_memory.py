"""FastAPI with the keys in a dict: the most that a few lines of one's own can reach, without any way to revoke."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Response

KEYS = dict.fromkeys(Path(os.environ["BENCH_KEYS"]).read_text(encoding="ascii").split(), "consumer-1")
app = FastAPI()


@app.get("/")
async def check(x_api_key: Annotated[str, Header()]) -> Response:
    consumer = KEYS.get(x_api_key)
    if consumer is None:
        raise HTTPException(401)
    return Response(headers={"X-Consumer-Id": consumer})
