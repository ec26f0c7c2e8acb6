"""The admin API: FastAPI routers over the services."""
