"""The web page of `plum demo`: ask about photographs and segment any words of an answer.

`session` holds a user's conversation and runs the model; `pictures` draws masks as transparent layers; `view` writes
the HTML; `downloads` writes the overlay and the masks to files. Only `page` imports gradio.
"""
