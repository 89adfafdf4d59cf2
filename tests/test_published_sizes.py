"""The experiments' published sizes, built in the abstract: they have the published parameters."""

import importlib.util

import pytest

from llm_jax import config as config_schema
from llm_jax.analysis import counts

# experiment: {mode: parameters}, as papers, model cards or transformers' own classes count them.
PUBLISHED = {
  "bart": {
    "base": 139_420_416,
    "large": 406_291_456,
  },
  "bert": {
    "base": 110_106_428,
    "large": 336_226_108,
  },
  "bloom": {
    "560m": 559_214_592,
    "1b1": 1_065_314_304,
    "1b7": 1_722_408_960,
    "3b": 3_002_557_440,
    "7b1": 7_069_016_064,
    "176b": 176_247_271_424,
  },
  "distilbert": {
    "base": 66_985_530,
  },
  "gemma": {
    "2b": 2_506_172_416,
    "7b": 8_537_680_896,
  },
  "gemma2": {
    "2b": 2_614_341_888,
    "9b": 9_241_705_984,
    "27b": 27_227_128_320,
  },
  "gpt1": {
    "117m": 116_534_784,
  },
  "gpt2": {
    "small": 124_439_808,
    "medium": 354_823_168,
    "large": 774_030_080,
    "xl": 1_557_611_200,
  },
  "griffin": {
    "2b": 2_682_862_080,
    "9b": 8_579_977_216,
  },
  "jamba": {
    "52b": 51_570_323_328,
    "398b": 398_555_145_696,
  },
  "llama": {
    "7b": 6_738_415_616,
    "13b": 13_015_864_320,
    "30b": 32_528_943_616,
    "65b": 65_285_660_672,
    "2-7b": 6_738_415_616,
    "2-13b": 13_015_864_320,
    "70b": 68_976_648_192,
    "8b": 8_030_261_248,
    "3-70b": 70_553_706_496,
    "3.1-8b": 8_030_261_248,
    "3.1-70b": 70_553_706_496,
    "3.1-405b": 405_853_388_800,
    "3.2-1b": 1_235_814_400,
    "3.2-3b": 3_212_749_824,
  },
  "mamba": {
    "130m": 129_135_360,
    "370m": 371_516_416,
    "790m": 793_204_224,
    "1.4b": 1_372_178_432,
    "2.8b": 2_768_345_600,
  },
  "mamba2": {
    "130m": 128_989_632,
    "370m": 368_346_624,
    "780m": 780_161_280,
    "1.3b": 1_343_757_312,
    "2.7b": 2_702_599_680,
    "7b": 7_285_403_648,
  },
  "mistral": {
    "7b": 7_241_732_096,
    "7b-0.3": 7_248_023_552,
  },
  "mixtral": {
    "8x7b": 46_702_792_704,
    "8x22b": 140_620_634_112,
  },
  "pythia": {
    "14m": 14_067_712,
    "31m": 30_494_720,
    "70m": 70_426_624,
    "160m": 162_322_944,
    "410m": 405_334_016,
    "1b": 1_011_781_632,
    "1.4b": 1_414_647_808,
    "2.8b": 2_775_208_960,
    "6.9b": 6_857_302_016,
    "12b": 11_846_072_320,
  },
  "qwen2": {
    "0.5b": 494_032_768,
    "1.5b": 1_543_714_304,
    "7b": 7_615_616_512,
    "72b": 72_706_203_648,
    "2.5-3b": 3_085_938_688,
    "2.5-14b": 14_770_033_664,
    "2.5-32b": 32_763_876_352,
  },
  "qwen3": {
    "0.6b": 596_049_920,
    "1.7b": 1_720_574_976,
    "4b": 4_022_468_096,
    "8b": 8_190_735_360,
    "14b": 14_768_307_200,
    "32b": 32_762_123_264,
  },
  "roberta": {
    "base": 124_697_433,
    "large": 355_412_057,
  },
  "rwkv4": {
    "169m": 169_342_464,
    "430m": 430_397_440,
    "1b5": 1_515_106_304,
    "3b": 2_984_627_200,
    "7b": 7_392_649_216,
    "14b": 14_148_597_760,
  },
  "rwkv5": {
    "0b4": 461_721_600,
    "1b5": 1_577_754_624,
    "3b": 3_062_999_040,
    "7b": 7_518_044_160,
  },
  "rwkv6": {
    "1b6": 1_599_873_024,
    "3b": 3_099_863_040,
    "7b": 7_635_746_816,
    "14b": 14_069_088_256,
  },
  "rwkv7": {
    "0b1": 191_034_624,
    "0b4": 450_767_872,
    "1b5": 1_527_404_544,
    "2b9": 2_947_735_040,
  },
  "t5": {
    "small": 60_506_624,
    "base": 222_903_552,
    "large": 737_668_096,
    "3b": 2_851_598_336,
    "11b": 11_307_321_344,
  },
  "t5_v1_1": {
    "small": 76_961_152,
    "base": 247_577_856,
    "large": 783_150_080,
    "xl": 2_849_757_184,
    "xxl": 11_135_332_352,
  },
  "transformer": {
    "base": 63_119_496,
    "big": 214_282_376,
    "opus-mt": 73_944_309,
  },
}

FILES = sorted(config_schema.EXPERIMENTS.rglob("*.py"))


def name_of(path):
  return str(path.relative_to(config_schema.EXPERIMENTS).with_suffix(""))


def sizes_of(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return set(getattr(module, "SIZES", {}))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_size_of_an_experiment_is_checked_here(path):
  assert sizes_of(path) == set(PUBLISHED.get(name_of(path), {}))


@pytest.mark.parametrize(
  ("name", "mode"), [(name, mode) for name, modes in PUBLISHED.items() for mode in modes]
)
def test_a_published_size_has_the_published_number_of_parameters(name, mode):
  config = config_schema.load(f"{config_schema.EXPERIMENTS / name}.py:{mode}", [])
  assert counts.parameters(config.model) == PUBLISHED[name][mode]
