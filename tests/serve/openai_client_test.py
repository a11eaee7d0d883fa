"""The official OpenAI client against the server over the fake engine.

    openai_client_test.py SERVE_FAKE SOURCE_DIR
"""

import sys
import unittest

from serving import Server, need

openai = need("openai", sys.argv[2])
KEY = "a-key-for-tests"
SERVER = None
TEXT = "The memory of a model is a table."


class OpenAiClient(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=SERVER.url + "/v1", api_key=KEY, max_retries=0)
        self.addCleanup(self.client.close)

    def complete(self, prompt="a", **options):
        return self.client.completions.create(model="fake-model", prompt=prompt, temperature=0, **options)

    def chat(self, content="hello", **options):
        return self.client.chat.completions.create(
            model="fake-model", messages=[{"role": "user", "content": content}], temperature=0, **options)

    def test_models(self):
        self.assertEqual(["fake-model"], [model.id for model in self.client.models.list()])
        self.assertEqual("engram", self.client.models.retrieve("fake-model").owned_by)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("another/model")

    def test_completion(self):
        answer = self.complete(max_tokens=10)
        self.assertEqual(TEXT[:10], answer.choices[0].text)
        self.assertEqual("length", answer.choices[0].finish_reason)
        self.assertEqual((1, 10, 11),
                         (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens))
        self.assertEqual(0, answer.usage.prompt_tokens_details.cached_tokens)

    def test_several_prompts_and_choices(self):
        answer = self.complete(prompt=["a", "bc"], n=2, max_tokens=3)
        self.assertEqual([0, 1, 2, 3], [choice.index for choice in answer.choices])
        self.assertEqual(3, answer.usage.prompt_tokens)
        self.assertEqual(12, answer.usage.completion_tokens)

    def test_stop(self):
        answer = self.complete(max_tokens=40, stop=["model"])
        self.assertEqual(TEXT[:TEXT.index("model")], answer.choices[0].text)
        self.assertEqual("stop", answer.choices[0].finish_reason)

    def test_streamed_completion(self):
        chunks = list(self.complete(max_tokens=90, stream=True, n=2, stream_options={"include_usage": True}))
        self.assertEqual(180, chunks[-1].usage.completion_tokens)
        self.assertEqual([], chunks[-1].choices)
        for index in range(2):
            text = "".join(choice.text for chunk in chunks for choice in chunk.choices if choice.index == index)
            self.assertTrue(text.startswith(TEXT))
            self.assertIn("\u6f22\u5b57", text, "characters of several tokens come whole")

    def test_logprobs_of_a_completion(self):
        logprobs = self.complete(max_tokens=3, logprobs=2).choices[0].logprobs
        self.assertEqual(list(TEXT[:3]), logprobs.tokens)
        self.assertEqual([-0.25] * 3, logprobs.token_logprobs)
        self.assertEqual([0, 1, 2], logprobs.text_offset)
        self.assertEqual([2, 2, 2], [len(top) for top in logprobs.top_logprobs])

    def test_prompts_are_scored(self):
        ids = self.client.post(SERVER.url + "/tokenize", body={"prompt": "ab"}, cast_to=object)["tokens"]
        answer = self.complete(prompt=[ids, ids[:1]], max_tokens=0, echo=True, logprobs=1)
        self.assertEqual(["ab", "a"], [choice.text for choice in answer.choices])
        self.assertEqual([None, -0.5], answer.choices[0].logprobs.token_logprobs)
        self.assertEqual([None, {"b": -0.5}], answer.choices[0].logprobs.top_logprobs)
        self.assertEqual(0, answer.usage.completion_tokens)
        answer = self.complete(prompt="ab", max_tokens=2, echo=True, logprobs=0)
        self.assertEqual("ab" + TEXT[:2], answer.choices[0].text)
        self.assertEqual([0, 1, 2, 3], answer.choices[0].logprobs.text_offset)
        chunks = list(self.complete(prompt="ab", max_tokens=2, echo=True, stream=True))
        self.assertEqual("ab" + TEXT[:2], "".join(chunk.choices[0].text for chunk in chunks))

    def test_many_prompts(self):
        self.assertEqual(128, len(self.complete(prompt=["a"] * 128, max_tokens=1).choices))
        with self.assertRaises(openai.BadRequestError):
            self.complete(prompt=["a"] * 129, max_tokens=1)

    def test_bias(self):
        id_of_x = self.client.post(SERVER.url + "/tokenize", body={"prompt": "x"}, cast_to=object)["tokens"][0]
        self.assertEqual("xxx", self.complete(max_tokens=3, logit_bias={str(id_of_x): 100}).choices[0].text)
        self.assertEqual("xx", self.chat(max_tokens=2, logit_bias={str(id_of_x): 100}).choices[0].message.content)

    def test_chat(self):
        answer = self.chat(max_completion_tokens=10)
        self.assertEqual("assistant", answer.choices[0].message.role)
        self.assertEqual(TEXT[:10], answer.choices[0].message.content)
        self.assertEqual(len("user: hello\nassistant:"), answer.usage.prompt_tokens)

    def test_streamed_chat(self):
        chunks = list(self.chat(max_tokens=len(TEXT), stream=True))
        self.assertEqual("assistant", chunks[0].choices[0].delta.role)
        self.assertEqual(TEXT, "".join(chunk.choices[0].delta.content or "" for chunk in chunks))
        self.assertEqual("length", chunks[-1].choices[0].finish_reason)
        self.assertEqual(1, len({chunk.id for chunk in chunks}))

    def test_logprobs_of_a_chat(self):
        content = self.chat(max_tokens=2, logprobs=True, top_logprobs=3).choices[0].logprobs.content
        self.assertEqual(["T", "h"], [token.token for token in content])
        self.assertEqual([84], content[0].bytes)
        self.assertEqual(3, len(content[0].top_logprobs))

    def test_extensions(self):
        answer = self.complete(max_tokens=3, extra_body={"memory_trace": True, "memory": "off", "top_k": 3})
        self.assertEqual(3, len(answer.choices[0].model_extra["memory"]))
        self.assertEqual([0.0, 0.0], answer.choices[0].model_extra["memory"][0]["layers"][0]["gates"])

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.complete(max_tokens=5000)
        self.assertEqual("context_length_exceeded", caught.exception.code)
        self.assertEqual("max_tokens", caught.exception.param)
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.completions.create(model="gpt", prompt="a")
        self.assertEqual("model_not_found", caught.exception.code)
        with self.assertRaises(openai.AuthenticationError):
            openai.OpenAI(base_url=SERVER.url + "/v1", api_key="wrong", max_retries=0).models.list()
        with self.assertRaises(openai.InternalServerError):
            self.complete(prompt="FAIL", max_tokens=9)
        with self.assertRaises(openai.APIError) as caught:
            list(self.complete(prompt="FAIL", max_tokens=9, stream=True))
        self.assertIn("checksum", str(caught.exception))


if __name__ == "__main__":
    program = sys.argv[1]
    with Server(program, KEY) as SERVER:
        result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=2).result
    sys.exit(not result.wasSuccessful())
