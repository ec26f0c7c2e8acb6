"""The pages a person looks at: Jinja templates and vendored scripts."""
