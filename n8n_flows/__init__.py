"""n8n at the edge to people: installed, set up and run headless. Imports nothing of the loop; they speak over HTTP."""
