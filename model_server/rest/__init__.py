"""The REST face: `server` routes and answers, `requests` reads JSON, `responses` writes it."""
