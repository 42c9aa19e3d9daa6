"""Words for people: everything that a person reads is put together here, for reports, commands and pages alike.

``phrases`` has single words and pieces of a line, ``layout`` the lines of a block, ``marker`` the underlined call,
``events`` the text of each event, and ``holders`` that of who holds what right now.

The reader is tired and wants the line. So a block starts with what, how often and ``file.py:LINE``; then the source
line and the way there, then who held the connection and where that one is now, and last what to do. It is plain ASCII
of our own, 80 columns where possible, with colour for the verdict alone. Paths and code are never wrapped, so that
terminals and editors can follow them. Every string that is not ours passes through `redact.visible`: a thread's name
must not move the cursor.

All functions here are pure, except that paths below the working directory are shown relative to it, and that the file
of the acquiring line is read: where it makes clear what is wrong, that is said instead of the general advice.
"""
