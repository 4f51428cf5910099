"""A load process: `python -m bench.load '{"role": ..., ...}'`, started by `bench.runner`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from bench.load import bulk, guests, joins, narrow, publisher, viewers
from bench.load.talk import Orders

ROLES = {
    "publish": publisher.publish,
    "view": viewers.view,
    "bulk": bulk.bulk,
    "connect": joins.connect,
    "join": joins.join_late,
    "narrow": narrow.narrow,
    "guests": guests.guests,
}


async def main(job: dict[str, Any]) -> None:
    # the native client's thread needs the interpreter for each wake-up; the default 5 ms would add latency
    sys.setswitchinterval(0.0005)
    await ROLES[job["role"]](job, Orders())


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
