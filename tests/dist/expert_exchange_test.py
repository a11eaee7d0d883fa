#!/usr/bin/env python3
"""Experts that lie with several ranks compute what they compute in one process, bit for bit.

    expert_exchange_test.py EXPERT_RANKS
"""

import sys
import unittest

from ranks_of_training import Ranks


class ExpertExchange(unittest.TestCase):
    def test_equals_one_process(self):
        for size in (1, 2, 3, 4):
            with self.subTest(size=size):
                codes, errors = Ranks([PROGRAM, "equal"], size).finish()
                self.assertEqual([0] * size, codes, errors)

    def test_counts_that_no_rank_can_mean(self):
        for scenario, said in (("more", "rank 1 sends 11 of 10 tokens to expert 0"),
                               ("negative", "rank 1 sends -1 of 10 tokens to expert 1"),
                               ("huge", "wanted at most 100 tokens"),
                               ("many", "rank 1 sends 40 rows of 10 tokens, wanted at most 2 of each")):
            with self.subTest(scenario):
                codes, errors = Ranks([PROGRAM, scenario], 2).finish()
                self.assertEqual([1, 1], codes, errors)
                self.assertIn(said, errors[0])
                self.assertEqual(1, errors[0].count("\n"), errors[0])
                self.assertIn("rank 0: ", errors[1])


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main(verbosity=2)
