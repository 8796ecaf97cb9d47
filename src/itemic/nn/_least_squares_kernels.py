"""The compiled loop of `least_squares`; imported on first use, because importing numba takes a while."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath=True)
def descend(x, first, offsets, columns, ridge, fixed, dense, target, steps, tolerance):
    """Moves each row of x, in place, by steps of conjugate gradient; row 0 of x is row `first` of the others.

    `dense` is the diagonal of everywhere · fixedᵀ fixed, which is diagonal here. With the ridge it is the
    preconditioner, so only the observed columns, a correction of low rank, keep a row from one step to the end.
    """
    n, dim = x.shape
    scratch = np.empty((5, dim), np.float32)
    diagonal, inverse, residual, direction, image = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    for row in range(n):
        start, stop = offsets[first + row], offsets[first + row + 1]
        current = x[row]
        if start == stop:
            current[:] = 0
            continue
        for j in range(dim):
            diagonal[j] = dense[j] + ridge[first + row]
            inverse[j] = 1 / diagonal[j]
            residual[j] = -diagonal[j] * current[j]
        for at in range(start, stop):
            vector = fixed[columns[at]]
            missing = np.float32(0)
            for j in range(dim):
                missing += vector[j] * current[j]
            missing = target - missing
            for j in range(dim):
                residual[j] += missing * vector[j]
        error = np.float32(0)
        for j in range(dim):
            direction[j] = inverse[j] * residual[j]
            error += residual[j] * direction[j]
        for _ in range(steps):
            size = np.float32(0)
            for j in range(dim):
                size += diagonal[j] * current[j] * current[j]
                image[j] = diagonal[j] * direction[j]
            if error <= tolerance * size:  # bounds the squared error of x by its squared size, in the norm of the loss
                break
            for at in range(start, stop):
                vector = fixed[columns[at]]
                along = np.float32(0)
                for j in range(dim):
                    along += vector[j] * direction[j]
                for j in range(dim):
                    image[j] += along * vector[j]
            curvature = np.float32(0)
            for j in range(dim):
                curvature += direction[j] * image[j]
            if curvature == 0:  # all is too small for float32: vectors that the ridge drew to nothing
                break
            length = error / curvature
            before, error = error, np.float32(0)
            for j in range(dim):
                current[j] += length * direction[j]
                residual[j] -= length * image[j]
                error += residual[j] * residual[j] * inverse[j]
            turn = error / before
            for j in range(dim):
                direction[j] = inverse[j] * residual[j] + turn * direction[j]
