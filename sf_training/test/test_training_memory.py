"""Whether a model fits is known before it is built."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from student_cases import CONTRACT, student_settings

from sf_training.training.memory import bytes_needed, require_memory
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import build_student

CPU = torch.device("cpu")


def settings_of(tmp_path, **changes) -> Settings:
    return Settings(data=tmp_path, out=tmp_path, student=student_settings("smolvlm", tmp_path, **changes))


def test_what_is_counted_is_what_is_built(tmp_path):
    for changes in ({}, {"train_vision": "lora", "train_language": "lora"}):
        settings = settings_of(tmp_path, **changes)
        model = build_student(settings.student, CONTRACT).model
        weights = sum(each.numel() * each.element_size() for each in model.parameters())
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        assert bytes_needed(settings, CONTRACT) == weights + trained * (4 + 8 + 4)  # gradient, two moments, average


def test_a_model_that_does_not_fit_is_refused_with_a_cure(tmp_path, monkeypatch):
    settings = settings_of(tmp_path)
    needed = bytes_needed(settings, CONTRACT)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1.5 * needed))
    require_memory(settings, CONTRACT, 1, CPU)
    with pytest.raises(TrainingError, match=r"the model needs .* GB .* are free; take --student.dtype bfloat16 with lora"):
        require_memory(settings, CONTRACT, 2, CPU)  # each process holds a copy


def test_sharded_processes_share_one_copy(tmp_path, monkeypatch):
    settings = Settings(data=tmp_path, out=tmp_path, student=student_settings("smolvlm", tmp_path), fsdp=True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1.5 * bytes_needed(settings, CONTRACT)))
    require_memory(settings, CONTRACT, 2, CPU)
