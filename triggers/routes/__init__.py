"""One file a resource. Routes authenticate, ask the authorizer, call the loop, and shape the answer; they decide
nothing."""
