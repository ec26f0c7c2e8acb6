"""Networks for windows and texts: a GRU, and a Transformer encoder.

1. Attention is written out of linear layers and one function of torch, so that its weights are
   plain matrices: onnxruntime makes them int8.
2. A text's tokens are bytes + 1, and 0 where there is none: those are neither attended to nor
   averaged. A text of nothing is a mean of nothing, zero, never NaN.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.model.network import RecurrentNetwork, TransformerNetwork
from shared.model.spec import TEXT_TOKENS
from shared.model.torch_images import classifier

POSITION_DEVIATION = 0.02  # Of drawn positions, as in BERT (Devlin et al. 2019)
WIDENING = 4  # Of the layer between two tokens' mixings (Vaswani et al. 2017, 3.3)
HIDDEN_SCORE = -1e4  # Of what must not be attended to: exp() of it is 0, in bf16 too


class LastState(nn.Module):
    """A GRU whose last state is read by one linear layer."""

    def __init__(self, gru: RecurrentNetwork, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(shape[0], gru.hidden, num_layers=gru.layers, batch_first=True)
        self.head = nn.Linear(gru.hidden, outputs)

    def forward(self, window: Tensor) -> Tensor:
        """Return (N, outputs) of windows (N, C, T)."""
        states, _ = self.recurrent(window.transpose(1, 2))  # (N, T, hidden)
        return self.head(states[:, -1])  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def window_transformer(
    network: TransformerNetwork, shape: tuple[int, ...], outputs: int
) -> nn.Module:
    """Return a Transformer that takes (N, C, T)."""
    channels, samples = shape
    body = WindowEncoder(network, channels=channels, samples=samples)
    return classifier(body, network.width, outputs)


def text_transformer(network: TransformerNetwork, length: int, outputs: int) -> nn.Module:
    """Return a Transformer that takes (N, L) tokens."""
    return classifier(TextEncoder(network, length=length), network.width, outputs)


class WindowEncoder(nn.Module):
    """Windows to features: `patch` samples of all channels are one token."""

    def __init__(self, network: TransformerNetwork, *, channels: int, samples: int) -> None:
        super().__init__()
        self.patch = network.patch
        self.missing = -samples % network.patch  # Zeros that make the last patch whole
        self.embedding = nn.Linear(channels * network.patch, network.width)
        self.encoder = Encoder(network, tokens_count=math.ceil(samples / network.patch))

    def forward(self, window: Tensor) -> Tensor:
        """Return (N, width) of windows (N, C, T)."""
        padded = functional.pad(window, (0, self.missing))  # (N, C, tokens * patch)
        patches = torch.unflatten(padded, 2, (-1, self.patch))  # (N, C, tokens, patch)
        tokens = self.embedding(patches.transpose(1, 2).flatten(2))  # (N, tokens, width)
        return self.encoder(tokens, None).mean(1)  # type: ignore[no-any-return]  # untyped


class TextEncoder(nn.Module):
    """Texts to features: `patch` bytes are one token, as in CANINE (Clark et al. 2022)."""

    def __init__(self, network: TransformerNetwork, *, length: int) -> None:
        super().__init__()
        self.patch = network.patch
        self.missing = -length % network.patch
        self.bytes = nn.Embedding(TEXT_TOKENS, network.width, padding_idx=0)
        self.embedding = nn.Linear(network.width * network.patch, network.width)
        self.encoder = Encoder(network, tokens_count=math.ceil(length / network.patch))

    def forward(self, text: Tensor) -> Tensor:
        """Return (N, width) of tokens (N, L) int64."""
        padded = functional.pad(text, (0, self.missing))  # (N, tokens * patch)
        patches = torch.unflatten(
            self.bytes(padded), 1, (-1, self.patch)
        )  # (N, tokens, patch, width)
        tokens = self.embedding(patches.flatten(2))  # (N, tokens, width)
        # Bytes are missing only at the end: a token is there if its first byte is.
        is_there = (padded[:, :: self.patch] > 0).to(tokens.dtype)
        encoded = self.encoder(tokens, (1.0 - is_there) * HIDDEN_SCORE)
        total = (encoded * is_there[:, :, None]).sum(1)  # (N, width)
        return total / is_there.sum(1, keepdim=True).clamp(min=1.0)  # type: ignore[no-any-return]  # untyped


class Encoder(nn.Module):
    """Positions, blocks, and a last norm."""

    def __init__(self, network: TransformerNetwork, *, tokens_count: int) -> None:
        super().__init__()
        drawn = torch.randn(1, tokens_count, network.width) * POSITION_DEVIATION
        self.positions = nn.Parameter(drawn)
        self.blocks = nn.ModuleList(Block(network) for _ in range(network.layers))
        self.norm = nn.LayerNorm(network.width)

    def forward(self, tokens: Tensor, hidden: Tensor | None) -> Tensor:
        """Return (N, tokens, width), each token having seen those that are not `hidden`.

        Args:
            tokens: (N, tokens, width).
            hidden: (N, tokens) what is added to a token's scores: 0, or HIDDEN_SCORE; None: all 0.
        """
        tokens = tokens + self.positions
        for block in self.blocks:
            tokens = block(tokens, hidden)
        return self.norm(tokens)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class Block(nn.Module):
    """Attention across tokens, then two linear layers in each; norms first (Xiong et al. 2020)."""

    def __init__(self, network: TransformerNetwork) -> None:
        super().__init__()
        width = network.width
        self.heads = network.heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.inner_norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(
            nn.Linear(width, WIDENING * width), nn.GELU(), nn.Linear(WIDENING * width, width)
        )

    def forward(self, tokens: Tensor, hidden: Tensor | None) -> Tensor:
        """Return (N, tokens, width); see Encoder.forward."""
        tokens = tokens + self._attend(self.attention_norm(tokens), hidden)
        return tokens + self.inner(self.inner_norm(tokens))  # type: ignore[no-any-return]  # untyped

    def _attend(self, tokens: Tensor, hidden: Tensor | None) -> Tensor:
        parts = torch.unflatten(self.query_key_value(tokens), 2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (N, heads, tokens, width / heads) each
        mask = (
            None if hidden is None else hidden[:, None, None].to(query.dtype)
        )  # (N, 1, 1, tokens)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.mixed(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # untyped
