"""The server that can only add: it holds no key of the study, and hospitals check everything it says.

``rounds`` (with ``keying``, ``masked_rounds`` and ``admission``) are the rules, pure; ``keeper`` joins them with
``journal`` and ``spool`` (the disk), ``running_sum`` and ``sharing`` (the masks); ``door``, ``streams`` and ``service``
face the network; ``server`` is the process. A test proves that neither torch nor TenSEAL is loaded.
"""
