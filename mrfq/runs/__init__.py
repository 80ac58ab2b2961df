"""What `mrfq train` and `mrfq quantize` share: commands with settings, a folder that can be resumed and a report.

`settings` says what settings can do, `config` reads and makes them, `toml_settings` writes them down, `checks` finds
mistakes in them; `folder` has the files, `command` does what a command line asks for, `console` and `page` show it,
`errors` are how it ends early, and `evaluation` grades networks on images.
"""
