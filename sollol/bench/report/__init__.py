"""What a comparison of policies found, as Markdown, as a page with plots, and as JSON."""
