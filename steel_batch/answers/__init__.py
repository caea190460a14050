"""SQL over a store: its tables, and views that explain them, now or at an earlier moment."""
