"""Paths for whoever runs the service: fitting its models again."""

from fastapi import APIRouter

from itemic.serving import messages as m
from itemic.serving.current import Current


def make_router(current: Current) -> APIRouter:
    """The paths under /v1/admin."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"])

    @router.post("/refresh", response_model=m.Refresh, status_code=202)
    async def refresh() -> dict:
        """Begins to fit the models again on all that is known now; the service goes over to them when they are good."""
        return current.refit()

    @router.get("/refresh", response_model=m.Refresh)
    async def refreshed() -> dict:
        """Whether models are being fitted, and how it ended the last time."""
        return current.said

    return router
