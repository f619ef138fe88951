"""What clients speak to the live server, one file each: routes, messages, the way of carrying sound and picture.

All go through the same gate and the same `LiveServer.admit`, so token, origins, limits, recording and metrics are those
of the server, whatever is spoken.
"""
