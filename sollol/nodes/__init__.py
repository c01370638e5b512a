"""What is known of the nodes: who they are, whether they are up, what they hold."""
