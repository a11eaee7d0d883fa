// Templates in the shapes of published ones against texts made by Jinja2 (tests/golden/make/chat_templates.py), and
// what is refused.
#include "engram/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "engram/core/env.h"
#include "engram/core/json.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

Json cases() {
  const std::string path = ENGRAM_SOURCE_DIR "/tests/text/data/chat_templates.json";
  return value_or_throw(parse_ordered_json(value_or_throw(Env::posix().read_file(path, {})), path));
}

TEST(ChatTemplate, TextsEqualJinjas) {
  setenv("TZ", "UTC", 1);
  const Json file = cases();
  EXPECT_GE(file["templates"].size(), 12u);
  for (const Json& item : file["templates"]) {
    SCOPED_TRACE(item["name"].get<std::string>());
    const ChatTemplate chat = value_or_throw(ChatTemplate::parse(item["template"].get<std::string>()));
    for (const Json& one : item["cases"]) {
      const Result<std::string> text = chat.render(one["variables"], file["now"].get<std::time_t>());
      EXPECT_EQ(text.ok(), one["text"].is_string()) << one["variables"] << (text.ok() ? "" : text.status().message());
      if (text.ok() && one["text"].is_string()) {
        EXPECT_EQ(*text, one["text"].get<std::string>()) << one["variables"];
      }
    }
  }
}

TEST(ChatTemplate, TheSamplesThatJinjaOrWeRefuseAreRefusedWhenRead) {
  const Json file = cases();
  for (const auto& [name, source] : file["refused"].items()) {
    const Result<ChatTemplate> chat = ChatTemplate::parse(source.get<std::string>());
    ASSERT_FALSE(chat.ok()) << name;
    EXPECT_THAT(chat.status().message(), testing::StartsWith("chat template: line 1: "));
  }
  EXPECT_THAT(ChatTemplate::parse("a\n\n{{ x | groupby }}").status().message(),
              HasSubstr("line 3: the filter 'groupby' is not supported"));
  EXPECT_THAT(ChatTemplate::parse("{% import 'x' as y %}").status().message(), HasSubstr("the tag 'import'"));
}

Result<std::string> render(const std::string& source) {
  return value_or_throw(ChatTemplate::parse(source)).render({{"messages", Json::array()}, {"d", {{"k", 1}}}}, 0);
}

TEST(ChatTemplate, ErrorsOfATemplateNameTheLine) {
  EXPECT_EQ(render("a\n{{ raise_exception('no ' ~ 1) }}").status().message(), "chat template: line 2: no 1");
  EXPECT_THAT(render("{{ nothing.at_all }}").status().message(), HasSubstr("'nothing' is undefined"));
  EXPECT_THAT(render("{{ nothing + 'a' }}").status().message(), HasSubstr("'nothing' is undefined"));
  EXPECT_THAT(render("{{ 'a' + 1 }}").status().message(), HasSubstr("'+' of these values"));
  EXPECT_THAT(render("{{ 1 // 0 }}").status().message(), HasSubstr("'//' of these values"));
  EXPECT_THAT(render("{{ 9223372036854775807 + 1 }}").status().message(), HasSubstr("'+' of these values"));
  EXPECT_THAT(render("{{ lipsum() }}").status().message(), HasSubstr("the function 'lipsum' is not supported"));
  EXPECT_THAT(render("{{ 'a'.encode() }}").status().message(), HasSubstr("the method 'encode' is not supported"));
  EXPECT_THAT(render("{{ d.items }}").status().message(), HasSubstr("without a call"));
  EXPECT_THAT(render("{% set d.k = 2 %}").status().message(), HasSubstr("'d' is not a namespace"));
}

TEST(ChatTemplate, WhatDoesNotEndIsStopped) {
  const std::string many = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
  const std::string doubling =
      "{% set ns = namespace(t='aaaaaaaa') %}{% for a in range(100) %}{% set ns.t = ns.t + ns.t %}{% endfor %}";
  for (const std::string& source : {many, doubling, std::string("{{ range(1000000000) | length }}"),
                                    std::string("{{ 'a' * 1000000 * 1000000 }}")}) {
    EXPECT_FALSE(render(source).ok()) << source;
  }
  EXPECT_EQ(render(many).status().code(), StatusCode::kResourceExhausted);
  const auto list = [](const std::string& next, int times) {
    return render(fmt::format(
        "{{% set ns = namespace(l=[]) %}}{{% for a in range({}) %}}{{% set ns.l = {} %}}{{% endfor %}}", times, next));
  };
  EXPECT_EQ(list("[ns.l, ns.l]", 60).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(list("[ns.l]", 100000).status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(list("[ns.l]", 100).ok());
  std::string chain = "{% macro f() %}{{ f()";
  for (int i = 0; i < 400; ++i) chain += " + 1";
  EXPECT_THAT(render(chain + " }}{% endmacro %}{{ f() }}").status().message(), HasSubstr("nested deeper than 500"));
  EXPECT_THAT(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").status().message(),
              HasSubstr("deeper than 50"));
  const auto nested = [](const std::string& open, int times) {
    std::string out = "{{ ";
    for (int i = 0; i < times; ++i) out += open;
    return ChatTemplate::parse(out + "1 }}").status().message();
  };
  EXPECT_THAT(nested("(", 300), HasSubstr("nesting deeper than 100"));
  EXPECT_THAT(nested("not ", 300), HasSubstr("nesting deeper than 100"));
  EXPECT_THAT(nested("1 + ", 3000), HasSubstr("more than 1000 tokens"));
  std::string blocks;
  for (int i = 0; i < 300; ++i) blocks += "{% if 1 %}";
  EXPECT_THAT(ChatTemplate::parse(blocks).status().message(), HasSubstr("nesting deeper than 100"));
}

TEST(ChatTemplate, OursIsOne) {
  const ChatTemplate plain = value_or_throw(ChatTemplate::parse(kPlainChatTemplate));
  const Json variables = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"add_generation_prompt", true}};
  EXPECT_EQ(value_or_throw(plain.render(variables, 0)), "user: hi\nassistant:");
}

}  // namespace
}  // namespace engram
