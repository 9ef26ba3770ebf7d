"""The audit of a run as one page to read or print, and as JSON with the same content.

``gather`` makes a :class:`model.AuditReport` from files alone; ``page`` draws it. The page shows nothing that is not in
the JSON. Nothing here says that a law is complied with: it says which claim is supported by which file, check or test.
"""
