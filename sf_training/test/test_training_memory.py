"""Tests of the memory check before a model is built."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from student_cases import CONTRACT, student_settings

from sf_training.training.distributed.memory import bytes_needed, require_memory
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import build_student

CPU = torch.device("cpu")


def settings_of(tmp_path, **changes) -> Settings:
    return Settings(
        data=tmp_path, out=tmp_path, student=student_settings("smolvlm", tmp_path, **changes)
    )


def test_counted_memory_equals_built_memory(tmp_path):
    for changes in ({}, {"train_vision": "lora", "train_language": "lora"}):
        settings = settings_of(tmp_path, **changes)
        model = build_student(settings.student, CONTRACT).model
        weights = sum(each.numel() * each.element_size() for each in model.parameters())
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        full = weights + trained * (4 + 8 + 4)  # gradient, two moments, average
        assert bytes_needed(settings, CONTRACT) == (weights, full)


def test_a_model_that_does_not_fit_is_refused_with_a_cure(tmp_path, monkeypatch):
    settings = settings_of(tmp_path)
    _, needed = bytes_needed(settings, CONTRACT)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1.5 * needed))
    require_memory(settings, CONTRACT, 1, CPU)
    with pytest.raises(
        TrainingError,
        match=r"the model needs .* GB .* are free; take --student.dtype bfloat16 with lora",
    ):
        require_memory(settings, CONTRACT, 2, CPU)  # each process holds a copy
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    require_memory(settings, CONTRACT, 2, CPU)  # the other one is on another machine


def test_sharded_processes_share_gradients_and_moments(tmp_path, monkeypatch):
    settings = Settings(
        data=tmp_path, out=tmp_path, student=student_settings("smolvlm", tmp_path), fsdp=True
    )
    _, full = bytes_needed(settings, CONTRACT)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1.1 * full))
    require_memory(settings, CONTRACT, 2, CPU)
    with pytest.raises(TrainingError, match=r"the model needs .* GB for weights, gradients"):
        require_memory(
            settings, CONTRACT, 20, CPU
        )  # each builds all weights before it keeps its shard


def test_gpus_hold_shards_and_their_host_all_weights_at_the_start(tmp_path, monkeypatch):
    settings = Settings(
        data=tmp_path, out=tmp_path, student=student_settings("smolvlm", tmp_path), fsdp=True
    )
    weights, full = bytes_needed(settings, CONTRACT)
    free = {"gpu": 0.3 * full, "host": 9 * weights}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["gpu"], 0))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free["host"]))
    gpu = torch.device("cuda", 0)
    require_memory(settings, CONTRACT, 4, gpu)
    with pytest.raises(TrainingError, match="weights, gradients and optimiser states"):
        require_memory(settings, CONTRACT, 2, gpu)
    with pytest.raises(TrainingError, match="the weights of 10 processes while they start"):
        require_memory(settings, CONTRACT, 10, gpu)
