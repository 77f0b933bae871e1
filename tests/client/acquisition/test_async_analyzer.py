"""The asyncio twin: the same outcomes, and the loop is never held up."""

from __future__ import annotations

import asyncio
import time

import pytest

from cytoserve import AsyncClient, DeadlineExceeded
from cytoserve.acquisition import AsyncFrameAnalyzer


@pytest.fixture(params=["address", "client", "async client"])
def asked(request, triton, client):
    """All that the analyzer takes for a client."""
    return {
        "address": lambda: triton.url,
        "client": lambda: client,
        "async client": lambda: AsyncClient(triton.url, timeout=10),
    }[request.param]


async def closed(client) -> None:
    if isinstance(client, AsyncClient):
        await client.close()


async def test_frames_come_back_by_ticket_iterator_and_callback(asked, frame):
    seen, client = [], asked()

    async def look(result):
        await asyncio.sleep(0)
        seen.append(result.number)

    async with AsyncFrameAnalyzer(client, "yolo", when_busy="wait", callback=look) as analyzer:
        await analyzer.warm_up((60, 80))
        reader = analyzer.results("arrival")
        tickets = [await analyzer.submit(frame, number) for number in range(4)]
        assert [ticket.metadata for ticket in tickets] == [0, 1, 2, 3]
        assert (await tickets[3].result(30)).answered
        assert tickets[3].done()
    assert [result.number async for result in reader] == [0, 1, 2, 3]
    assert reader.missed == 0
    assert seen == [0, 1, 2, 3]
    assert analyzer.statistics().answered == 4
    await closed(client)


async def test_semantic_pipelines_and_failures(asked, frame, rgb32):
    client = asked()
    async with AsyncFrameAnalyzer(client, "glioma_unet") as analyzer:
        answered = await (await analyzer.submit(frame)).result(30)
        assert answered.foreground is not None
        failed = await (await analyzer.submit(rgb32)).result(30)
        assert failed.status == "failed"
    assert (await (await analyzer.submit(frame)).result(0)).status == "failed"
    await closed(client)


async def test_a_late_frame_is_late_here_too(asked, triton, frame):
    client = asked()
    async with AsyncFrameAnalyzer(client, "yolo", deadline=0.5) as analyzer:
        await analyzer.warm_up((60, 80))
        triton.faults.append(lambda context: time.sleep(1))
        result = await (await analyzer.submit(frame)).result(30)
        assert result.status == "late"
        assert isinstance(result.error, DeadlineExceeded)
    await closed(client)


async def test_the_loop_runs_on_while_submit_waits_for_room(held, held_client, frame):
    held.go.clear()
    async with AsyncFrameAnalyzer(held_client, "yolo", when_busy="wait") as analyzer:
        await analyzer.submit(frame)
        await asyncio.to_thread(held.asked.acquire)
        await analyzer.submit(frame)
        third = asyncio.create_task(analyzer.submit(frame))
        await asyncio.wait([third], timeout=0.1)
        assert not third.done()
        held.go.set()
        assert (await (await third).result(30)).answered


async def test_waiting_for_a_result_can_be_given_up_and_taken_up_again(held, held_client, frame):
    held.go.clear()
    async with AsyncFrameAnalyzer(held_client, "yolo") as analyzer:
        ticket = await analyzer.submit(frame)
        with pytest.raises(TimeoutError):
            await ticket.result(0.01)
        task = asyncio.create_task(ticket.result())
        await asyncio.sleep(0.01)
        task.cancel()
        held.go.set()
        assert (await ticket.result(30)).answered


async def test_the_iterator_waits_for_results_to_come(held, held_client, frame):
    held.go.clear()
    async with AsyncFrameAnalyzer(held_client, "yolo") as analyzer:
        reader = analyzer.results()
        await analyzer.submit(frame)
        first = asyncio.ensure_future(anext(reader))
        await asyncio.wait([first], timeout=0.05)
        assert not first.done()
        held.go.set()
        assert (await first).answered
