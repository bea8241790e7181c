"""Models that can be picked by name. The torchvision names are listed so that reading them needs no torchvision.

A factory of our own is called with the shape of one input, the number of outputs, and the entry's parameters by name;
it returns an nn.Module from [N, *shape] to [N, outputs]. One that asks for ``target_shape`` or ``input_shapes`` (of
several inputs) gets these, too. Facts: ``images``, it takes images and nothing else; ``tokens``, it takes whole
numbers.
"""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "leaky_relu", "elu", "sigmoid", "mish")

_ACTIVATION = Param("activation", "str", "relu", "the non-linearity", choices=ACTIVATIONS)
_ENCODER = Param("widths", "ints", (128,), "width of each hidden layer of the encoder", low=1)
_LATENT = Param("latent", "int", 16, "numbers in the middle", low=1)
_DROPOUT = Param("dropout", "float", 0.0, "share of activations dropped while training", low=0, high=0.99)

_OWN = (
    Entry(
        "model",
        "mlp",
        "fully connected layers on the flattened input",
        (
            Param("widths", "ints", (512, 512), "width of each hidden layer", low=1),
            _ACTIVATION,
            _DROPOUT,
            Param("batch_norm", "bool", False, "batch normalisation after each hidden layer"),
        ),
        factory="torchdeck.core.models.nets:mlp",
    ),
    Entry(
        "model",
        "linear",
        "one linear layer on the flattened input (logistic or linear regression)",
        factory="torchdeck.core.models.nets:linear",
    ),
    Entry(
        "model",
        "cnn",
        "stages of 3x3 convolutions with batch norm, each stage halving the image",
        (
            Param("channels", "ints", (32, 64), "channels of each stage", low=1),
            Param("convs", "int", 1, "convolutions in each stage", low=1, high=20),
            _ACTIVATION,
            _DROPOUT,
            Param("batch_norm", "bool", True, "batch normalisation after each convolution"),
            Param("hidden", "int", 0, "width of a hidden fully connected layer; 0: none", low=0),
        ),
        facts={"images": True},
        factory="torchdeck.core.models.nets:CNN",
    ),
    Entry(
        "model",
        "resnet",
        "residual network for small images (He et al. 2016, section 4.2: 3x3 stem, no early pooling)",
        (
            Param("channels", "ints", (32, 64, 128), "channels of each stage", low=1),
            Param("blocks", "int", 1, "residual blocks in each stage", low=1, high=50),
            _ACTIVATION,
            _DROPOUT,
        ),
        facts={"images": True},
        factory="torchdeck.core.models.nets:ResNet",
    ),
    Entry(
        "model",
        "fastnet",
        "residual network that pools early, after David Page's ResNet-9 for DAWNBench: most accuracy for a CPU's time",
        (
            Param("channels", "ints", (32, 64, 128, 256), "channels of the stem and of each stage", low=1),
            Param(
                "blocks",
                "ints",
                (1, 2, 0),
                "convolutions in the residual branch of each stage; 0: none",
                low=0,
                high=10,
            ),
            Param("logit_scale", "float", 0.125, "the logits are multiplied by it", low=1e-6, high=100),
            _ACTIVATION,
            _DROPOUT,
        ),
        facts={"images": True},
        factory="torchdeck.core.models.nets:FastNet",
    ),
    Entry(
        "model",
        "unet",
        "a U-Net: a number of each class for each pixel (Ronneberger et al. 2015)",
        (Param("channels", "ints", (16, 32, 64), "channels of each stage, which halve the image", low=1), _ACTIVATION),
        facts={"images": True},
        factory="torchdeck.core.models.unet:UNet",
    ),
    Entry(
        "model",
        "small_fcos",
        "torchvision's FCOS over a few convolutions: boxes and their classes (Tian et al. 2019)",
        (
            Param("channels", "ints", (32, 64), "channels of each stage, which halve the image", low=1),
            Param("size", "int", 48, "the shorter side of an image is made so many pixels", low=16),
        ),
        factory="torchdeck.core.models.unet:small_fcos",
    ),
    Entry(
        "model",
        "gpt",
        "a small GPT over tokens (Radford et al. 2019)",
        (
            Param("width", "int", 128, "numbers that stand for a token", low=1),
            Param("layers", "int", 4, "blocks of attention", low=1, high=200),
            Param("heads", "int", 4, "heads of each attention", low=1),
            _DROPOUT,
        ),
        facts={"tokens": True},
        factory="torchdeck.core.models.gpt:GPT",
    ),
    Entry(
        "model",
        "autoencoder",
        "fully connected layers to a few numbers and back",
        (_ENCODER, _LATENT, _ACTIVATION),
        factory="torchdeck.core.models.autoencoders:Autoencoder",
    ),
    Entry(
        "model",
        "vae",
        "a variational autoencoder of fully connected layers, for loss elbo (Kingma and Welling 2014)",
        (_ENCODER, _LATENT, _ACTIVATION),
        factory="torchdeck.core.models.autoencoders:VAE",
    ),
    Entry(
        "model",
        "projected_cnn",
        "the stages of cnn and a projection, for contrastive learning (Chen et al. 2020)",
        (
            Param("channels", "ints", (32, 64), "channels of each stage", low=1),
            Param("convs", "int", 1, "convolutions in each stage", low=1, high=20),
            _ACTIVATION,
            Param("hidden", "int", 128, "width of the projection's hidden layer", low=1),
            Param("embedding", "int", 64, "numbers of the embedding", low=1),
        ),
        facts={"images": True},
        factory="torchdeck.core.models.projected:ProjectedCNN",
    ),
    Entry(
        "model",
        "gru",
        "a recurrent network over a series [time, features] (Cho et al. 2014)",
        (
            Param("width", "int", 64, "numbers of its state", low=1),
            Param("layers", "int", 1, "layers of recurrence", low=1, high=20),
            _DROPOUT,
        ),
        factory="torchdeck.core.models.sequences:GRU",
    ),
    Entry(
        "model",
        "image_and_table",
        "two inputs: a cnn over the image and a layer over the table's row, joined",
        (
            Param("channels", "ints", (32, 64), "channels of each stage over the image", low=1),
            Param("width", "int", 64, "width of what is joined", low=1),
            _DROPOUT,
        ),
        factory="torchdeck.core.models.image_and_table:ImageAndTable",
    ),
)

#: ``torchvision.models.list_models(module=torchvision.models)``, i.e. every classification model of 0.29.
TORCHVISION = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 densenet201
efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf
regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf
regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13
vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
""".split()  # noqa: SIM905  a list would be eighty lines


def _torchvision(name: str) -> Entry:
    params = [
        Param(
            "dropout", "float", help="share dropped before the head, where the model has such a layer", low=0, high=0.99
        )
    ]
    if name.startswith("vit_"):
        params.append(Param("image_size", "int", help="side of the square images; default 224", low=16))
    return Entry("model", name, "torchvision", tuple(params), facts={"family": "torchvision"})


MODELS: tuple[Entry, ...] = (*_OWN, *(_torchvision(name) for name in TORCHVISION))
