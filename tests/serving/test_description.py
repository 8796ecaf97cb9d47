"""The description of the API holds: what is made after it is answered as it says, and never by a failure."""

import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings


@pytest.mark.parametrize("examples", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_what_is_made_after_the_description_never_makes_the_service_fail(serving, examples):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schemathesis = pytest.importorskip("schemathesis")
    requests = pytest.importorskip("requests")
    with serving(limits={"rate": 100_000}) as shop:
        schema = schemathesis.openapi.from_url(f"{shop.url}/openapi.json")
        tried, session = [], requests.Session()
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(max_examples=examples, phases=[Phase.explicit, Phase.generate], suppress_health_check=HealthCheck)
            @given(case=operation.as_strategy())
            def try_it(case):
                response = case.call(session=session)
                assert response.status_code < 500, f"{case.as_curl_command()}: {response.text}"
                described = case.operation.definition.raw["responses"]
                assert str(response.status_code) in described, f"{response.status_code} {case.as_curl_command()}"

            try_it()
            tried.append(operation.path)
        assert len(tried) >= 17
        assert shop.recommend(history=[], k=1)
