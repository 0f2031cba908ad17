"""What the tests share: ports, processes of a real cluster, a control node that follows a script, waiting."""
