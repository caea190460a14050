"""SQL over a store: its tables and what explains them, as views, now or as they once were."""
