"""Published checkpoints, read and written: one file a family, found on disk by its MODEL_TYPES.

A family's file holds

  MODEL_TYPES = ("llama",)          config.json's model_type
  model_config(fields)              from config.json (`fields.Fields`) to a config of the model
  published_config(spec)            the inverse, a dict for config.json; None: not of this family
  weights(spec)                     the table of names and layouts, for both directions

and, where it needs them,

  IGNORED = (regex, ...)            buffers a file may hold, by name
  rename(name)                      the table's name of a tensor that older files call otherwise
  aliases(spec)                     {name of a tied copy that may be present: what it must equal}
  constants(spec)                   {name: array}: written, and checked where a file holds them
  recognise(shapes)                 from {name: shape} to what stands for config.json, or None: for
                                    formats that have no config.json
"""
