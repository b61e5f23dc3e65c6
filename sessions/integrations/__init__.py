"""Stores for agent frameworks: one module for each, which needs the extra of its name.

They use the public interface of a repository, and nothing of the package imports them. Importing
``sessions.integrations`` imports none of them.
"""
