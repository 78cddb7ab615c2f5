#!/usr/bin/env python3
"""Makes golden.json: scores of scikit-learn 1.5.2 and pyod 2.0.7 on the matrix of golden.rs.

usage: golden.py > golden.json      (needs numpy, scikit-learn, pyod)
"""
import json
import math

import numpy as np
from pyod.models.pca import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.svm import OneClassSVM


def row(i):
    cluster = 8.0 if i % 3 == 0 else 0.0
    return [math.sin(1.7 * i + 0.3 * j * j) * (j + 1.0) + cluster + 0.01 * (i * (j + 3) % 17) for j in range(4)]


train = np.array([row(i) for i in range(90)])
test = np.array([row(i + 1000) for i in range(20)]) + np.array([[0.0, 0.1 * i, 0.0, -0.2 * i] for i in range(20)])

svm = OneClassSVM(nu=0.3).fit(train)
pca = PCA().fit(train)
golden = {
    "ocsvm": list(-svm.score_samples(test)),
    "ocsvm_rho": float(svm.offset_[0]),
    "kde": list(-KernelDensity(bandwidth=0.7).fit(train).score_samples(test)),
    "gmm1": list(-GaussianMixture(1, reg_covar=1e-6, random_state=0).fit(train).score_samples(test)),
    "gmm2": list(-GaussianMixture(2, reg_covar=1e-3, tol=1e-9, max_iter=500, random_state=0).fit(train).score_samples(test)),
    "pca": list(pca.decision_function(test)),
    "knn": list(NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]),
    "if": list(np.mean([-IsolationForest(random_state=s).fit(train).score_samples(test) for s in range(20)], axis=0)),
}
print(json.dumps(golden, indent=1))
