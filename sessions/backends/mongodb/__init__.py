"""MongoDB, on PyMongo's asyncio client or Motor's."""
