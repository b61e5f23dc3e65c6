"""A FastAPI service whose operations and pools a Prometheus server scrapes at /metrics."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import FastAPI, Header, Response
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sessions import AsyncChats
from sessions.observability import CorrelationFilter, SessionsInstrumentor, correlate

# The service's own choice: the SDK, where its spans go, and what reads its metrics.
trace.set_tracer_provider(TracerProvider())  # .add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
SessionsInstrumentor().instrument()

handler = logging.StreamHandler()
handler.addFilter(CorrelationFilter())
handler.setFormatter(logging.Formatter("%(levelname)s %(operation)s %(correlation_id)s %(message)s"))
logging.getLogger().addHandler(handler)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncChats("sqlite://") as chats:
        app.state.chats = chats
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/chats")
async def create(x_request_id: Annotated[str | None, Header()] = None) -> dict[str, str]:
    with correlate(x_request_id) as request_id:
        session_id = await app.state.chats.create_session("alice")
        await app.state.chats.add_message("alice", session_id, "user", "Hello")
    return {"request": request_id}


@app.get("/metrics")
def scrape() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def main() -> None:
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://chat") as client:
        for number in range(3):
            response = await client.post("/chats", headers={"X-Request-Id": f"request-{number}"})
            print(response.json())
        scraped = (await client.get("/metrics")).text
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            if sample.name == "db_client_operation_duration_seconds_count":
                print(sample.labels["db_operation_name"], sample.value)
            elif sample.name == "db_client_connection_count":
                print("connections", sample.labels["db_client_connection_state"], sample.value)


asyncio.run(main())
