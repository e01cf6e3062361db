"""The durable loop: `log` (storage), `engine` (durable graphs on Ray), `pipeline` (the loop) and the command line."""
