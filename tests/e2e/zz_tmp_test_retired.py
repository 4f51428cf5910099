import asyncio
from tests.e2e.http_support import *
from tests.e2e.test_metrics import *
from tests.e2e.http_support import stage, published
async def test_retired():
    async with stage(limits=Limits()) as (relay, http), published(relay) as (_, publication), viewer(relay) as client:
        publication.track("video")
        write(publication, b"x")
        sub = await client.subscribe("demo/cam","video")
        await (await anext(sub)).read_all()
        publication.unannounce()
        await until(relay, "broadcasts", 0)
        write(publication, b"yy")
        await (await anext(sub)).read_all()
        v = await scrape(relay)
        print({k[0]:x for k,x in v.items() if k[0] in ("moq_relay_tracks","moq_relay_viewers","moq_relay_groups_received_total","moq_relay_cached_bytes")})
        async with http.get(f"{relay.internal_url}state") as r: print((await r.json())["totals"])
    async with stage(limits=Limits(tracks=1)) as (relay, http), published(relay) as (_, publication):
        for t in ("a","b"):
            publication.track(t); write(publication,b"x",track=t)
        r1 = await http.get(f"{relay.url}fetch/demo/cam/a")
        r2 = await http.get(f"{relay.url}fetch/demo/cam/b")
        print(r1.status, r2.status, await r2.text())
        v = await scrape(relay); print([k for k in v if "refused" in k[0]])
