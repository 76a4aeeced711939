"""The Python module, installed, on its binary. What needs torch is skipped by name where there is none."""

import importlib.util
import json
import os
import tempfile
import unittest
from pathlib import Path

import trtmut

FIXTURES = Path(os.environ["TRTMUT_FIXTURES"])
HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("safetensors") is not None


class Folder(unittest.TestCase):
    """Each test in an empty folder."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)


class Run(Folder):
    def test_documents_come_back(self):
        clip = FIXTURES / "clip_text"
        built = trtmut.run(["build", clip / "model.ts.onnx", "--shapes", clip / "shapes.ts.json", "--backend", "cpu"])
        self.assertTrue(built["schema"].startswith("trtmut.build/"))
        verdict = trtmut.run(["diff", "engine.plan", clip / "fused.safetensors", "--exit-code"])
        self.assertEqual(verdict["verdict"], "NEEDS_REFIT")
        self.assertTrue(trtmut.run(["refit", "engine.plan", clip / "fused.safetensors"])["written"])

    def test_failures_are_raised_with_what_was_said(self):
        with self.assertRaises(trtmut.Error) as raised:
            trtmut.run(["inspect", "none.plan"])
        self.assertEqual(raised.exception.exit_code, 1)
        self.assertIn("none.plan", str(raised.exception))
        self.assertTrue(raised.exception.code)
        with self.assertRaises(trtmut.Error) as raised:
            trtmut.run(["refit"])
        self.assertEqual((raised.exception.exit_code, raised.exception.code), (2, "usage"))

    def test_other_outputs_are_raised(self):
        clip = FIXTURES / "clip_text"
        trtmut.run(["build", clip / "model.ts.onnx", "--shapes", clip / "shapes.ts.json", "--backend", "cpu"])
        expect = f"{clip / 'io0.safetensors'}:fused."
        with self.assertRaises(trtmut.Error) as raised:
            trtmut.run(["run", "engine.plan", "--inputs", clip / "io0.safetensors", "--expect", expect])
        self.assertEqual(raised.exception.exit_code, 40)

    def test_text_is_no_document(self):
        with self.assertRaises(trtmut.Error):
            trtmut.run(["--version"])
        with self.assertRaises(TypeError):
            trtmut.run("inspect engine.plan")


class Dim:
    """What `shapes_from_torch` looks at in torch's class."""

    def __init__(self, name, min, max):
        self.__name__, self.min, self.max = name, min, max


class Derived(Dim):
    def __init__(self, name, root):
        self.__name__, self.root = name, root
        self.min = self.max = None


class Shapes(Folder):
    def test_the_example_of_the_mutable_module(self):
        batch, h, w = Dim("BATCH", 2, 24), Dim("_H", 16, 32), Dim("_W", 16, 32)
        spec = trtmut.shapes_from_torch(
            ({0: batch, 2: Derived("4*_H", h), 3: Derived("4*_W", w)}, {}),
            {
                "encoder_hidden_states": {0: batch},
                "added_cond_kwargs": {"text_embeds": {0: batch}, "time_ids": {0: batch}},
                "return_dict": None,
            },
        )
        expected = json.loads((FIXTURES / "shapes/sdxl_unet.json").read_text())
        del expected["dims"]["BATCH"]["opt"]
        self.assertEqual(spec, expected)

    def test_what_is_wrong_is_refused(self):
        with self.assertRaisesRegex(ValueError, "two dims `B`, 1 to 2 and 1 to 3"):
            trtmut.shapes_from_torch(({0: Dim("B", 1, 2)}, {0: Dim("B", 1, 3)}))
        with self.assertRaisesRegex(TypeError, r"x\.y\[0\] is 'B'"):
            trtmut.shapes_from_torch((), {"x": {"y": {0: "B"}}})
        with self.assertRaisesRegex(TypeError, r"args\[0\] has axes and names"):
            trtmut.shapes_from_torch(({0: None, "a": None},))

    @unittest.skipUnless(HAS_TORCH, "torch is not installed")
    def test_torchs_own_dims(self):
        from torch.export import Dim

        b, h = Dim("B", min=1, max=3), Dim("H", min=2)
        spec = trtmut.shapes_from_torch(
            ({0: b, 1: 2 * h - 1}, [b, None, 4], {0: Dim.AUTO, 1: Dim.DYNAMIC(max=9), 2: Dim.STATIC, 3: Dim.AUTO(min=2, max=8)}),
            {"flag": None, "tree": [{0: h}, {"x": {-1: b}}]},
        )
        self.assertEqual(
            spec,
            {
                "dims": {"B": {"min": 1, "max": 3}, "H": {"min": 2}},
                "args": [
                    {"0": "B", "1": "2*H - 1"},
                    ["B", None, 4],
                    {"0": "AUTO", "1": "Dim.DYNAMIC(max=9)", "2": "STATIC", "3": "Dim.AUTO(min=2, max=8)"},
                ],
                "kwargs": {"flag": None, "tree": [{"0": "H"}, {"x": {"-1": "B"}}]},
            },
        )

    @unittest.skipUnless(HAS_TORCH, "torch is not installed")
    def test_a_spec_from_torch_builds(self):
        from torch.export import Dim

        b, h, w = Dim("B", min=1, max=3), Dim("H", min=8, max=32), Dim("W", min=8, max=32)
        unet = FIXTURES / "sd_unet"
        t = Dim("T", min=5, max=11)
        spec = trtmut.shapes_from_torch(({0: b, 2: h, 3: w}, {0: b}), {"encoder_hidden_states": {0: b, 1: t}})
        Path("shapes.json").write_text(json.dumps(spec))
        built = trtmut.run(["build", unet / "model.ts.onnx", "--shapes", "shapes.json", "--backend", "cpu"])
        self.assertTrue(built["schema"].startswith("trtmut.build/"))


@unittest.skipUnless(HAS_TORCH, "torch is not installed")
class Inputs(Folder):
    def names(self, module, args, kwargs):
        """As torch.export names the inputs that are tensors."""
        import torch

        program = torch.export.export(module, args, kwargs, strict=False)
        specs = program.graph_signature.input_specs
        user = [s for s in specs if s.kind == torch.export.graph_signature.InputKind.USER_INPUT]
        return [s.arg.name for s in user if isinstance(s.arg, torch.export.graph_signature.TensorArgument)]

    def test_names_are_those_of_torch_export(self):
        import torch
        from safetensors.torch import load_file

        class Module(torch.nn.Module):
            def forward(self, x, a_b, *more, Cond=None, scale=1.0, **rest):
                sums = [x, a_b, *more, Cond["x-y"][0], Cond["z"], rest["a"]["b"]]
                return sum(t.sum() for t in sums) * scale

        t = [torch.full((2, i + 1), float(i)) for i in range(7)]
        module = Module()
        args = (t[0], t[1], t[2])
        kwargs = {"scale": 2.0, "a": {"b": t[5]}, "Cond": {"x-y": [t[3], None], "z": t[4].to(torch.bfloat16)}}
        names = trtmut.save_inputs("in.safetensors", args, kwargs, module=module)
        self.assertEqual(names, self.names(module, args, kwargs))
        saved = load_file("in.safetensors")
        self.assertEqual(sorted(saved), sorted(names))
        self.assertTrue(torch.equal(saved["x"], t[0]) and saved["cond_z"].dtype == torch.bfloat16)

    def test_names_that_are_taken_get_a_number(self):
        import torch

        class Module(torch.nn.Module):
            def forward(self, a_b, *, a, a_b_1):
                return a_b + a["b"] + a["B"] + a_b_1

        t = [torch.ones(2) * i for i in range(4)]
        args, kwargs = (t[0],), {"a": {"b": t[1], "B": t[2]}, "a_b_1": t[3]}
        names = trtmut.save_inputs("in.safetensors", args, kwargs, module=Module())
        self.assertEqual(names, self.names(Module(), args, kwargs))

    def test_names_are_needed(self):
        import torch

        with self.assertRaisesRegex(ValueError, "have no names"):
            trtmut.save_inputs("in.safetensors", (torch.ones(1),))
        with self.assertRaisesRegex(ValueError, "2 tensors"):
            trtmut.save_inputs("in.safetensors", (torch.ones(1), torch.ones(1)), names=["a"])
        self.assertFalse(Path("in.safetensors").exists())
        names = trtmut.save_inputs("in.safetensors", (torch.ones(1),), {"b": torch.ones(2)}, names=["x", "y"])
        self.assertEqual(names, ["x", "y"])


if __name__ == "__main__":
    unittest.main()
