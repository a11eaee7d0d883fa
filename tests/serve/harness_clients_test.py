"""LangChain's and LiteLLM's clients against the server over the fake engine.

    harness_clients_test.py SERVE_FAKE SOURCE_DIR
"""

import os
import sys
import unittest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no download of prices

from serving import Server, need

litellm = need("litellm", sys.argv[2], "harness")
langchain_openai = need("langchain_openai", sys.argv[2], "harness")
KEY = "a-key-for-tests"
SERVER = None
TEXT = "The memory of a model is a table."


class Clients(unittest.TestCase):
    def options(self):
        return {"base_url": SERVER.url + "/v1", "api_key": KEY, "max_retries": 0}

    def test_langchain_completes(self):
        model = langchain_openai.OpenAI(model="fake-model", temperature=0, max_tokens=10, **self.options())
        self.assertEqual(TEXT[:10], model.invoke("a"))
        self.assertEqual([TEXT[:10]] * 2, model.batch(["a", "b"]))
        self.assertEqual(TEXT[:10], "".join(model.stream("a")))
        scored = langchain_openai.OpenAI(model="fake-model", temperature=0, max_tokens=1, logprobs=1,
                                         model_kwargs={"echo": True}, **self.options()).generate(["ab"])
        self.assertEqual("ab" + TEXT[0], scored.generations[0][0].text)
        self.assertEqual([None, -0.5, -0.25], scored.generations[0][0].generation_info["logprobs"]["token_logprobs"])

    def test_langchain_chats(self):
        model = langchain_openai.ChatOpenAI(model="fake-model", temperature=0, max_tokens=10, logprobs=True,
                                            top_logprobs=2, **self.options())
        answer = model.invoke([("system", "Be short."), ("user", "hello")])
        self.assertEqual(TEXT[:10], answer.content)
        self.assertEqual(10, len(answer.response_metadata["logprobs"]["content"]))
        self.assertEqual(10, answer.usage_metadata["output_tokens"])
        self.assertEqual(TEXT[:10], "".join(part.content for part in model.stream("hello")))
        biased = langchain_openai.ChatOpenAI(model="fake-model", temperature=0, max_tokens=2, logit_bias={7: 100},
                                             **self.options()).invoke("hello").content
        self.assertEqual(biased[0], biased[1])

    def litellm(self, ask, **fields):
        return ask(api_base=SERVER.url + "/v1", api_key=KEY, temperature=0, num_retries=0, **fields)

    def test_litellm_completes(self):
        model = "text-completion-openai/fake-model"
        answer = self.litellm(litellm.text_completion, model=model, prompt="ab", max_tokens=2, echo=True, logprobs=1)
        self.assertEqual("ab" + TEXT[:2], answer.choices[0].text)
        self.assertEqual([None, -0.5, -0.25, -0.25], answer.choices[0].logprobs.token_logprobs)
        parts = self.litellm(litellm.text_completion, model=model, prompt="ab", max_tokens=9, stream=True)
        self.assertEqual(TEXT[:9], "".join(part.choices[0].text or "" for part in parts))

    def test_litellm_chats(self):
        messages = [{"role": "user", "content": "hello"}]
        answer = self.litellm(litellm.completion, model="openai/fake-model", messages=messages, max_tokens=9)
        self.assertEqual(TEXT[:9], answer.choices[0].message.content)
        parts = self.litellm(litellm.completion, model="openai/fake-model", messages=messages, max_tokens=9,
                             stream=True)
        self.assertEqual(TEXT[:9], "".join(part.choices[0].delta.content or "" for part in parts))
        answer = self.litellm(litellm.completion, model="openai/fake-model", messages=messages, max_tokens=2,
                              logit_bias={"7": 100})
        self.assertEqual(answer.choices[0].message.content[0], answer.choices[0].message.content[1])


if __name__ == "__main__":
    program = sys.argv[1]
    with Server(program, KEY) as SERVER:
        result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=2).result
    sys.exit(not result.wasSuccessful())
