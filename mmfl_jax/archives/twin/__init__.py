"""The twin: archives made on the fly from a seed, patches, scenes and tiles.

``physics`` and ``statistics`` hold the constants, ``drawing`` the tools, ``owners`` the countries; ``images`` draws
places, and ``patches``, ``scenes`` and ``tiles`` are archives of them.
"""
