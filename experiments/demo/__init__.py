"""A page on this machine where one drags digits about and sees AIR look at them.

:mod:`~experiments.demo.looking` is what AIR sees, :mod:`~experiments.demo.images` what it is shown,
:mod:`~experiments.demo.server` answers the browser, and ``page/`` is what the browser runs. Nothing
here is fetched from elsewhere.
"""
