"""The chain rule on the two graphs of lecture 004: numbers, then vectors.

Backward, every node multiplies the gradient that comes from above by its own local gradient:

    df/dx = df/dq * dq/dx          upstream gradient * local gradient

The gradient with respect to a variable always has the variable's shape.
"""

from __future__ import annotations

import numpy as np

from beside import Cases, Found, autograd, show


def scalar(x: float, y: float, z: float) -> Found:
    """f = (x + y) z."""
    q = x + y
    f = q * z
    df_dq, df_dz = z, q  # a product hands each factor the other one
    dq_dx, dq_dy = 1.0, 1.0  # a sum hands on what it gets
    return {
        k: np.array(v) for k, v in {"loss": f, "dL/dx": df_dq * dq_dx, "dL/dy": df_dq * dq_dy, "dL/dz": df_dz}.items()
    }


def vector(W: np.ndarray, x: np.ndarray) -> Found:
    """f = |W x|^2, W (n, n), x (n,).

    dq_k/dW_ij = 1[k = i] x_j,  so  df/dW_ij = sum_k 2 q_k 1[k = i] x_j = 2 q_i x_j
    dq_k/dx_i  = W_ki,          so  df/dx_i  = sum_k 2 q_k W_ki
    """
    q = W @ x
    f = q @ q
    df_dq = 2 * q
    df_dW = np.outer(df_dq, x)  # 2 q x^T
    df_dx = W.T @ df_dq  # 2 W^T q
    return {"loss": f, "dL/dW": df_dW, "dL/dx": df_dx}


def cases(rng: np.random.Generator) -> Cases:
    """Both graphs with the lecture's numbers, then with others."""
    numbers = {"x": -2.0, "y": 5.0, "z": -4.0}
    arrays = {"W": np.array([[0.1, 0.5], [-0.3, 0.8]]), "x": np.array([0.2, 0.4])}
    others = {"W": rng.normal(size=(4, 4)), "x": rng.normal(size=4)}
    return {
        "f = (x + y) z at x = -2, y = 5, z = -4": (
            scalar(**numbers),
            autograd(lambda x, y, z: (x + y) * z, **numbers),
        ),
        **{
            f"f = |W x|^2, {title}": (vector(**given), autograd(lambda W, x: (W @ x).square().sum(), **given))
            for title, given in {"the lecture's numbers": arrays, "n = 4": others}.items()
        },
    }


if __name__ == "__main__":
    show(cases(np.random.default_rng(0)))
