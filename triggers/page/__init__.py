"""The page for people: what runs, what is tried on clients, what waits for a decision. Server-rendered HTML."""
