"""The durable loop: `log` (storage), `engine` (durable graphs on Ray), `pipeline` (the loop itself) and the command line."""
