// Eighteen small files gave no validation document (1 % of 18 by hash is none), and nobody said so: training on them
// reported no validation loss.
//
// Right: at least one document goes to validation, or an error says that there is no second one.
#include "engram/data/prepare.h"
#include "tests/data/data_test.h"

namespace engram {
namespace {

class EighteenFiles : public DataTest {
 protected:
  Result<PrepareSummary> prepare(int files, double fraction = 0.01) {
    PrepareOptions options;
    for (int i = 0; i < files; ++i) {
      options.files.push_back(path(fmt::format("{}.txt", i)));
      if (!Env::posix().file_exists(options.files.back())) write(fmt::format("{}.txt", i), fmt::format("text {}", i));
    }
    options.output_directory = path("out");
    options.validation_fraction = fraction;
    options.threads = 2;
    return prepare_shards(Env::posix(), tokenizer_, options);
  }
  const Tokenizer tokenizer_ = value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "bytes"));
};

TEST_F(EighteenFiles, OneGoesToValidation) {
  for (int i = 0; i < 18; ++i) ASSERT_FALSE(is_validation_document(fmt::format("text {}", i), 0.01));
  const PrepareSummary summary = value_or_throw(prepare(18));
  EXPECT_EQ(summary.train.num_documents, 17);
  EXPECT_EQ(summary.validation.num_documents, 1);
  // That of the smallest hash: no fraction that sends another one there leaves it out.
  double fraction = 0.01;
  while (value_or_throw(prepare(18, fraction)).validation.num_documents == 1) fraction *= 1.1;
  int below = 0;
  for (int i = 0; i < 18; ++i) below += is_validation_document(fmt::format("text {}", i), fraction);
  EXPECT_EQ(below, 2);
}

TEST_F(EighteenFiles, WithoutAFractionThereIsNone) {
  EXPECT_EQ(value_or_throw(prepare(18, 0)).validation.num_documents, 0);
}

TEST_F(EighteenFiles, OneDocumentIsAnError) {
  const Status one = prepare(1).status();
  EXPECT_EQ(one.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(one.message().find("no text for validation: there is one document only"), std::string::npos)
      << one.message();
  write("1.txt", "text 0");  // the same text again is no second document
  EXPECT_EQ(prepare(2).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(value_or_throw(prepare(1, 0)).train.num_documents, 1);
}

}  // namespace
}  // namespace engram
