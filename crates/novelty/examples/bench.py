"""One round of `bench.rs` with scikit-learn and pyod: CPU seconds of fit and score as JSON.

usage: bench.py TRAIN TEST COLUMNS      (files of little-endian 64-bit floats)
"""
import json
import sys
import time

import numpy as np
from pyod.models.knn import KNN
from pyod.models.pca import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

train, test = (np.fromfile(f, dtype="<f8").reshape(-1, int(sys.argv[3])) for f in sys.argv[1:3])
out = {}
for name, make, score in [
    ("ocsvm", lambda: OneClassSVM(), "score_samples"),
    ("kde", lambda: KernelDensity(bandwidth=1.0), "score_samples"),
    ("gmm", lambda: GaussianMixture(8, reg_covar=1e-3, random_state=1), "score_samples"),
    ("pca", lambda: PCA(), "decision_function"),
    ("if", lambda: IsolationForest(random_state=1), "score_samples"),
    ("knn", lambda: KNN(n_neighbors=5), "decision_function"),
]:
    begin = time.process_time()
    model = make().fit(train)
    middle = time.process_time()
    getattr(model, score)(test)
    out[name] = [middle - begin, time.process_time() - middle]
print(json.dumps(out))
