"""sha256 of each graph; written by `python -m robustcodec.lab.graphs`."""

DIGESTS = {
    "hyper-128-192-analysis.onnx": "4f2cf113256dea3ef50e147082fa0fd2bffd936bc99c977efc38a6556ce28fbc",
    "hyper-128-192-hyper_analysis.onnx": "f06361d214b9f43ba38799a83b4ee270a8a35c617a4b426495bde0c7501b6513",
    "hyper-128-192-synthesis.onnx": "30ba17e48c0d7cc4d3a1480db2950cda7ffe9c14a943bff31bae73156401194c",
    "hyper-128-192-descent.onnx": "ebd14a544c16847b5bdea6d7977e3a76d5b2c348d8ef1e46b945a71dd5ede155",
    "hyper-192-320-analysis.onnx": "146a11376d09f3ea8f2b6f3dab32cf69b1967689c1fa58eeb49a1adc92eb7286",
    "hyper-192-320-hyper_analysis.onnx": "0a788d8d78bddb9d2b8a4a70aa1f3fd79b670cc4b284d0358f7fb40b9b256acc",
    "hyper-192-320-synthesis.onnx": "5bc9ebf44e748d5a3c17758577b6dba552c059d9a6bd0ad4f0732ea60d206782",
    "hyper-192-320-descent.onnx": "e1b5c1d032053a5241547d24e83a1d2b5fe3efdbe92cfcab37a772b3bf55bce8",
    "hyper-64-96-analysis.onnx": "0e33d3b6c92a8b6bff11b14605a6f6dbe099686a98993b4cc8c5675089a815b5",
    "hyper-64-96-hyper_analysis.onnx": "ffe646692785276aeab5f2c1b139d053b3b214cd9e476ea67939317184cab0bb",
    "hyper-64-96-synthesis.onnx": "ab30bb98dd40e1420799eb64b0a08054051fb3021a3939efe2beb6fca0883078",
    "hyper-64-96-descent.onnx": "b74a172e7f7b7a2a42ab7994879f1faba4ad0b9d427adf8c668d0a493cbd65cd",
    "hyper-8-12-analysis.onnx": "e36ac308d152d0975776ae6a7a0b072ab6d18489da155c975c003353c5266043",
    "hyper-8-12-hyper_analysis.onnx": "934412c52853c5923f25cdf58363580fbf46fb4bb0dc97185c7be53f9aa8b123",
    "hyper-8-12-synthesis.onnx": "fdcd158e3e651a1e2d62545ed5d9988f4cbf98b2a3a51b8361addb0aaba1afec",
    "hyper-8-12-descent.onnx": "2ca568b2f39fc8cc6ae4f4e9ce2ab0b37d8a5bc3ca0107b2f2f82d0dc1eccc04",
}
