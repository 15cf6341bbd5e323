"""The follower's service: it carries accepted plans on, and answers over HTTP what the commands print.

``follower`` is the loop, ``api`` the answers, ``metrics`` the numbers, ``health`` what one tells the other.
"""
