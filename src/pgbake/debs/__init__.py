"""Debian packages of what recipes have built, and a repository of such packages."""
