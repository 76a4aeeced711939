"""The two examples of the Torch-TensorRT page "Mutable Torch TensorRT Module", with files instead of Python objects.

Small configurations with random weights, so that it runs anywhere in minutes, also without a GPU; the lines are those of the full
size. docs/from-diffusers.md walks through it, scripts/test-diffusers.sh runs it.

    pip install trtmut torch torchvision diffusers peft transformers onnx onnxscript safetensors
    python docs/from_diffusers.py
"""

import json
import tempfile
from pathlib import Path

import torch
import torchvision.models as models
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import trtmut


def compare(what, expected, found):
    """Outputs agree to 1e-4 of the largest value."""
    error = float((expected - found).abs().max() / expected.abs().max())
    print(f"{what}: largest difference {error:.1e} of the largest value")
    assert error <= 1e-4, what


def run(plan, module, args=(), kwargs=None):
    """The first output of a plan for a call of the module that it was made from."""
    trtmut.save_inputs("in.safetensors", args, kwargs, module=module)
    trtmut.run(["run", plan, "--inputs", "in.safetensors", "--save", "out.safetensors"])
    (output,) = load_file("out.safetensors").values()
    return output


def resnet():
    """Compile once, load other weights, refit."""
    inputs = (torch.rand((1, 3, 224, 224)),)
    model = models.resnet18().eval()

    # mutable_module = torch_trt.MutableTorchTensorRTModule(model, **settings)
    torch.onnx.export(model, inputs, "resnet18.onnx", dynamo=True)
    save_file(model.state_dict(), "resnet18.safetensors")
    trtmut.run(["build", "resnet18.onnx", "--base-weights", "resnet18.safetensors", "-o", "resnet18.plan"])
    # mutable_module(*inputs)
    compare("resnet18, compiled", model(*inputs), run("resnet18.plan", model, inputs))

    model2 = models.resnet18().eval()
    # mutable_module.load_state_dict(model2.state_dict())
    save_file(model2.state_dict(), "model2.safetensors")
    done = trtmut.run(["refit", "resnet18.plan", "model2.safetensors"])
    assert done["verdict"] == "NEEDS_REFIT"
    # expected_outputs, refitted_outputs = model2(*inputs), mutable_module(*inputs)
    compare("resnet18, refitted", model2(*inputs), run("resnet18.plan", model2, inputs))

    # MutableTorchTensorRTModule.save and load: the plan and its manifest are files already.
    print("resnet18, saved:", ", ".join(sorted(path.name for path in Path(".").glob("resnet18.plan*"))))


def pipeline():
    """Stable Diffusion XL's parts, each as small as it can be."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=1,
        attention_head_dim=(1, 2, 2),
        norm_num_groups=8,
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=4,
    )
    return StableDiffusionXLPipeline(
        vae=vae.eval(),
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
    )


def make_lora(folder):
    """What training would leave: a LoRA in diffusers' own format."""
    unet = pipeline().unet
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    layers = get_peft_model_state_dict(unet)
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers)


class Engine(torch.nn.Module):
    """The plan in the pipeline's place of the UNet. For speed, load it with TensorRT's own API: docs/serving.md."""

    def __init__(self, plan, unet):
        super().__init__()
        self.plan, self.unet = plan, unet
        self.config, self.add_embedding = unet.config, unet.add_embedding
        self.device, self.dtype = unet.device, unet.dtype

    def forward(self, sample, timestep, **kwargs):
        kwargs = {key: kwargs[key] for key in ("encoder_hidden_states", "added_cond_kwargs")}
        return (run(self.plan, self.unet, (sample, timestep), kwargs),)


def sdxl():
    """Replace the pipeline's UNet, give the ranges, generate, fuse a LoRA, generate."""
    pipe = pipeline()
    make_lora("lora")
    prompt = {
        "prompt_embeds": torch.randn(1, 7, 32),
        "negative_prompt_embeds": torch.randn(1, 7, 32),
        "pooled_prompt_embeds": torch.randn(1, 24),
        "negative_pooled_prompt_embeds": torch.randn(1, 24),
    }

    def image():
        generator = torch.Generator().manual_seed(5)
        sizes = {"height": 32, "width": 32, "num_inference_steps": 3}
        return pipe(**prompt, **sizes, generator=generator, output_type="pt").images

    BATCH = torch.export.Dim("BATCH", min=2, max=4)
    _HEIGHT = torch.export.Dim("_HEIGHT", min=2, max=8)
    _WIDTH = torch.export.Dim("_WIDTH", min=2, max=8)
    HEIGHT = 4 * _HEIGHT
    WIDTH = 4 * _WIDTH
    args_dynamic_shapes = ({0: BATCH, 2: HEIGHT, 3: WIDTH}, {})
    kwargs_dynamic_shapes = {
        "encoder_hidden_states": {0: BATCH},
        "added_cond_kwargs": {"text_embeds": {0: BATCH}, "time_ids": {0: BATCH}},
        "return_dict": None,
    }
    # pipe.unet.set_expected_dynamic_shape_range(args_dynamic_shapes, kwargs_dynamic_shapes)
    spec = trtmut.shapes_from_torch(args_dynamic_shapes, kwargs_dynamic_shapes)
    Path("shapes.json").write_text(json.dumps(spec))

    unet = pipe.unet
    args = (torch.randn(2, 4, 16, 16), torch.tensor(1.0))
    kwargs = {
        "encoder_hidden_states": torch.randn(2, 7, 32),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, 24), "time_ids": torch.randn(2, 6)},
        "return_dict": False,
    }
    names = ("sample", "timestep")
    dynamic_shapes = dict(zip(names, args_dynamic_shapes)) | kwargs_dynamic_shapes
    # pipe.unet = torch_trt.MutableTorchTensorRTModule(pipe.unet, **settings)
    torch.onnx.export(unet, args, "unet.onnx", kwargs=kwargs, dynamic_shapes=dynamic_shapes, dynamo=True)
    save_file(unet.state_dict(), "unet.safetensors")
    build = ["build", "unet.onnx", "--shapes", "shapes.json", "--base-weights", "unet.safetensors", "-o", "unet.plan"]
    trtmut.run(build)

    # image = pipe(prompt, negative_prompt=negative, num_inference_steps=30).images[0]
    expected = image()
    pipe.unet = Engine("unet.plan", unet)
    compare("SDXL, an image", expected, image())
    larger = (torch.randn(4, 4, 32, 8), torch.tensor(7.0))
    more = {
        "encoder_hidden_states": torch.randn(4, 7, 32),
        "added_cond_kwargs": {"text_embeds": torch.randn(4, 24), "time_ids": torch.randn(4, 6)},
    }
    compare("SDXL, at the end of the range", unet(*larger, **more).sample, run("unet.plan", unet, larger, more))
    pipe.unet = unet

    # pipe.load_lora_weights(...); pipe.set_adapters(["lora1"], adapter_weights=[1]); pipe.fuse_lora(); pipe.unload_lora_weights()
    done = trtmut.run(["refit", "unet.plan", "--lora", "lora/pytorch_lora_weights.safetensors:1"])
    assert done["verdict"] == "NEEDS_REFIT" and done["changed"]
    pipe.load_lora_weights("lora", adapter_name="lora1")
    pipe.set_adapters(["lora1"], adapter_weights=[1])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    fused = image()
    assert float((fused - expected).abs().max()) > 1e-3, "the LoRA changes the image"
    compare("SDXL with the LoRA, at the end of the range", unet(*larger, **more).sample, run("unet.plan", unet, larger, more))
    pipe.unet = Engine("unet.plan", unet)
    compare("SDXL with the LoRA, an image", fused, image())

    # Back to the base weights: nothing is left of the LoRA.
    trtmut.run(["refit", "unet.plan", "--base"])
    compare("SDXL without it again, an image", expected, image())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        import os

        os.chdir(folder)
        torch.manual_seed(5)
        with torch.no_grad():
            resnet()
            sdxl()
        os.chdir("/")
